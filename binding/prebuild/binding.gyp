# Compiles nothing: copies the addon that cmake-js built, and its libraries, to where prebuildify looks.
{
  "targets": [
    {
      "target_name": "duet-train",
      "type": "none",
      "actions": [
        {
          "action_name": "stage",
          "inputs": ["../../build/Release/duet.node", "stage.mjs"],
          "outputs": ["<(PRODUCT_DIR)/duet.node"],
          "action": ["node", "stage.mjs", "../../build/Release/duet.node", "<(PRODUCT_DIR)"],
        }
      ],
    }
  ]
}
